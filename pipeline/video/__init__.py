"""Videos: read frames in order, cut them out with a ``Segmenter``, write them with sound, and read the result back.

Needs PyAV, the extra ``video``. Only ``extra`` can be imported without it. The formats are described in ``README.md``.

May import: ``segmenter``, ``models``, ``imaging``, ``storage``, ``config`` and the modules at the root.
"""
