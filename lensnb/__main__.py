"""`python -m lensnb` is the command line `lensnb`."""

from lensnb.apps.cli import main

if __name__ == "__main__":
    main()
