"""pgratchet: forward-only PostgreSQL migrations behind a proven backup."""

__version__ = "0.1.0"
