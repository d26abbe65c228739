"""Requests and replies of every tool, a file per family. No torch."""
