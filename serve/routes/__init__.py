"""The HTTP routes: each module has `router(...)`, which gives the routes of one subject."""
