-- name: checks
-- Lists check constraints that decide whether a row may be in a table, at the top of their inheritance, and those of the
-- domains of the table's columns: what they are, how to drop them, and how to add them again.
WITH RECURSIVE own AS (
    SELECT oid, conrelid, conname, coninhcount FROM pg_catalog.pg_constraint
    WHERE conrelid = %(table)s::regclass AND contype = 'c'
    UNION
    SELECT p.oid, p.conrelid, p.conname, p.coninhcount
    FROM own JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = own.conrelid
    JOIN pg_catalog.pg_constraint AS p ON p.conrelid = i.inhparent AND p.conname = own.conname AND p.contype = 'c'
    WHERE own.coninhcount > 0
), domain AS (
    SELECT t.oid, t.typbasetype FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = %(table)s::regclass AND t.typtype = 'd'
    UNION
    SELECT t.oid, t.typbasetype FROM domain JOIN pg_catalog.pg_type AS t ON t.oid = domain.typbasetype
    WHERE t.typtype = 'd'
)
SELECT format('CHECK CONSTRAINT %%s %%I', conrelid::regclass, conname),
       format('ALTER TABLE %%s DROP CONSTRAINT %%I;', conrelid::regclass, conname),
       format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s;', conrelid::regclass, conname, pg_get_constraintdef(oid))
FROM own WHERE coninhcount = 0
UNION
SELECT format('CHECK CONSTRAINT %%s %%I', contypid::regtype, conname),
       format('ALTER DOMAIN %%s DROP CONSTRAINT %%I;', contypid::regtype, conname),
       format('ALTER DOMAIN %%s ADD CONSTRAINT %%I %%s;', contypid::regtype, conname, pg_get_constraintdef(c.oid))
FROM pg_catalog.pg_constraint AS c JOIN domain ON domain.oid = c.contypid WHERE contype = 'c';

-- name: generated
-- Lists generated columns: what they are, how to make ordinary columns of them, and how to generate them again.
SELECT format('GENERATED COLUMN %%s.%%I', a.attrelid::regclass, attname),
       format('ALTER TABLE %%s ALTER COLUMN %%I DROP EXPRESSION;', a.attrelid::regclass, attname),
       format('ALTER TABLE %%1$s DROP COLUMN %%2$I; ALTER TABLE %%1$s ADD COLUMN %%2$I %%3$s GENERATED ALWAYS AS (%%4$s) STORED;',
              a.attrelid::regclass, attname, format_type(atttypid, atttypmod), pg_get_expr(adbin, adrelid))
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %(table)s::regclass AND attgenerated = 's' AND NOT attisdropped;
