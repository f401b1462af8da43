"""Serve cutouts over HTTP: one ASGI application with its queue, its guards and its page.

``app.make_app`` builds the application; ``server.run`` runs it in this process with uvicorn. Needs the extra ``serve``.
May import: ``review.html``, ``segmenter``, ``run`` and what they may import. The only home of Starlette and uvicorn.
"""
