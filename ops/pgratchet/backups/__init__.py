"""Takes backups of a database, keeps them in a store, verifies, lists and restores them."""
