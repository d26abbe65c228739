"""saescope's tool server and command line."""
