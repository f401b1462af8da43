"""``matteline bench``: measure the machine, the models, every stage, the whole job, and rembg beside it.

Prints numbers and holds no bars; ``tests/studies/bench`` holds the bars.

May import: everything except ``jobs``.
"""
