import common  # noqa: F401: refuses a Python that cannot work, before other modules are imported.
