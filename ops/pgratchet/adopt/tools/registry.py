"""Lists the tools whose history can be adopted."""

from __future__ import annotations

from pgratchet.adopt.tools import (
    alembic,
    dbmate,
    drizzle,
    flyway,
    golang_migrate,
    goose,
    liquibase,
    node_pg_migrate,
    prisma,
    yoyo,
)
from pgratchet.adopt.tools.tool import Tool

TOOLS: tuple[Tool, ...] = (
    alembic.TOOL,
    dbmate.TOOL,
    drizzle.TOOL,
    flyway.TOOL,
    golang_migrate.TOOL,
    goose.TOOL,
    liquibase.TOOL,
    node_pg_migrate.TOOL,
    prisma.TOOL,
    yoyo.TOOL,
)
