"""Bad input: files, recipes, weights and run folders of strangers, made here and never stored."""
