"""L2SNet: localization-to-segmentation of lesions in whole-body FDG PET/CT (Cai et al. 2023). Research use only.

import l2s
result = l2s.segment("CASE")   # -> mask, probability, cue, lesions; see l2s/api.py
"""

import importlib
import inspect
import types

from l2s import api
from l2s import segment as _segment

__version__ = "0.1.0"
__all__ = ["__version__", "segment"]


class _Stage(types.ModuleType):
    """`l2s.segment` is a package, the method's second stage, and the verb that users call: it can be both."""

    __call__ = staticmethod(api.segment)

    def __reduce__(self):
        """A worker gets it by its name: pickle, copy and multiprocessing know no modules."""
        return importlib.import_module, (self.__name__,)


_segment.__class__ = _Stage
_segment.__doc__ = api.segment.__doc__  # of the verb: help(l2s.segment) is for its callers
_segment.__signature__ = inspect.signature(api.segment)  # else inspect takes `source` for self
