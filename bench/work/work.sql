-- SPDX-License-Identifier: Apache-2.0
-- What `make bench` has SQLite do: inserts, an index, a join, groups, updates, text.
CREATE TABLE item(id INTEGER PRIMARY KEY, owner INTEGER, price REAL, name TEXT);
CREATE TABLE owner(id INTEGER PRIMARY KEY, city TEXT);
BEGIN;
INSERT INTO owner
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
  SELECT i, 'city ' || (i * 7919 % 37) FROM n;
INSERT INTO item
  WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
  SELECT i, 1 + i * 7919 % 500, (i * 104729 % 10007) / 7.0, printf('item %05d of %x', i, i * 31) FROM n;
COMMIT;
CREATE INDEX item_price ON item(price);
SELECT city, count(*), round(sum(price), 3) FROM item JOIN owner ON owner.id = item.owner
  GROUP BY city ORDER BY 3 DESC LIMIT 5;
SELECT count(*), max(name) FROM item WHERE price BETWEEN 300 AND 600;
UPDATE item SET price = price * 1.5, name = upper(name) WHERE id % 3 = 0;
SELECT count(*) FROM item WHERE name LIKE '%OF%a%';
SELECT round(total(price), 3) FROM item;
DELETE FROM item WHERE owner IN (SELECT id FROM owner WHERE city = 'city 5');
SELECT count(DISTINCT substr(name, 6, 3)) FROM item;
