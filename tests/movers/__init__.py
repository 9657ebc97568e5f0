"""The real tools that people move in from, each applying the same sample to PostgreSQL.

What a tool's history looks like is proven by the tool, not by us: its pinned version is fetched once from the package
registries into `.pgratchet/movers` of the checkout, laid out as its manual has it, and run. A tool that cannot be had
is skipped with the reason. Flyway, golang-migrate and goose come by no registry that is asked here (Maven's and Go's
have them); their tables are made by hand elsewhere.
"""

from __future__ import annotations

from tests.movers.java import Liquibase
from tests.movers.node import Dbmate, Drizzle, Drizzle1, NodePgMigrate, Prisma
from tests.movers.python import Alembic, Yoyo
from tests.movers.tool import Mover

__all__ = ["MOVERS", "Mover"]

MOVERS: tuple[Mover, ...] = (
    Drizzle(),
    Drizzle1(),
    Dbmate(),
    NodePgMigrate(),
    Prisma(),
    Alembic(),
    Yoyo(),
    Liquibase(),
)
