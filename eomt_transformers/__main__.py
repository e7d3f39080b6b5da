"""`python -m eomt_transformers`: the `eomt` command."""

from .command import main


if __name__ == "__main__":
    main()
