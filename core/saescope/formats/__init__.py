"""On-disk dialects, one file each, tried in this order. Each has:

NAME                  its name in the catalogue
matches(names)        whether these are the files of the SAE's own folder (or {file name}, if the SAE is one file)
wanted(path)          patterns, relative to the repository root, of the files that a load reads
peek(source)          configuration, and the tensors as they end up, without reading a weight
read(source, dtype)   configuration, and the tensors under our names in the field's shapes
"""

from saescope.formats import saelens
from saescope.formats.source import Source, local_source

DIALECTS = (saelens,)
BY_NAME = {dialect.NAME: dialect for dialect in DIALECTS}

__all__ = ["BY_NAME", "DIALECTS", "Source", "local_source"]
