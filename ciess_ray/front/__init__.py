"""What ``import ciess_ray`` offers, without the command line."""

import logging

# In a notebook Ray asks for ipywidgets while it is imported; nothing here draws with them.
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
