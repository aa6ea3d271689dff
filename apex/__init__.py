# Refuses a Python that cannot work, before other modules are imported.
import common  # noqa: F401
