"""The tools, a file per family, each ending in its `TOOLS`.

The core is imported only once the SAE is known to be loaded: an error costs no torch.
"""
