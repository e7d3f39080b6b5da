"""`python -m app_eomt`, the same as `eomt app`."""

from .command import main


if __name__ == "__main__":
    main()
