"""Real migration tools to adopt from. Each applies the same sample to PostgreSQL.

The tool itself shows how its history looks. Its pinned version is fetched once from the package registries into
`.pgratchet/other_tools` of the checkout, set up as its manual says, and run. A tool that cannot be fetched is skipped.
Flyway, golang-migrate and goose are not fetched (only the registries of Maven and Go have them): handwritten.py has
their tables.
"""

from __future__ import annotations

from tests.other_tools.java import Liquibase
from tests.other_tools.node import Dbmate, Drizzle, Drizzle1, NodePgMigrate, Prisma
from tests.other_tools.python import Alembic, Yoyo
from tests.other_tools.tool import OtherTool

__all__ = ["MOVERS", "OtherTool"]

OTHER_TOOLS: tuple[OtherTool, ...] = (
    Drizzle(),
    Drizzle1(),
    Dbmate(),
    NodePgMigrate(),
    Prisma(),
    Alembic(),
    Yoyo(),
    Liquibase(),
)
