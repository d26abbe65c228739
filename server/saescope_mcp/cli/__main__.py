"""`python -m saescope_mcp.cli`: the command line where the `saescope` script is not on the path."""

from saescope_mcp.cli import main

if __name__ == "__main__":
    main()
