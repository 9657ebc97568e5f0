"""Reads the inventory and renders a target's settings from variables and templates."""
