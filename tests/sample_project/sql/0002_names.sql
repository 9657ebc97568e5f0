ALTER TABLE customers ADD COLUMN first_name text;
UPDATE customers SET first_name = split_part(name, ' ', 1);
