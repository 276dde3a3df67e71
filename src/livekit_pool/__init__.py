"""Many LiveKit servers, one address.

Everybody is sent to the same active server; when that server fails, exactly one rotation
happens and everybody moves to the next one.
"""

__version__ = "0.1.0"
