"""``matteline bench``: measure this machine, the models, every stage, and the whole job.

Prints numbers; holds no bars.

May import: everything except ``jobs``.
"""
