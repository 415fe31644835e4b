"""What a person starts: the command line, the notebooks' executor, training alone, the report."""
