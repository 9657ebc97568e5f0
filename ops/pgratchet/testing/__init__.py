"""The pytest plugin: databases with all migrations applied, for the tests of projects that use pgratchet."""
