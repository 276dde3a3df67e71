"""
Configuration: the only reader of environment, .env files and YAML.

`load` gathers the `Settings` from all of them, `ensure_key_pair` and `find_key_pair` add the
pool's own key pair where none was configured, and `SETTINGS` is the table from which flags and
documentation are made.
"""

from .keys import ensure_key_pair, find_key_pair
from .loading import debugging, load
from .settings import SETTINGS, Setting, Settings

__all__ = [
    "SETTINGS",
    "Setting",
    "Settings",
    "debugging",
    "ensure_key_pair",
    "find_key_pair",
    "load",
]
