-- SPDX-License-Identifier: Apache-2.0
CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b TEXT, c REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
  INSERT INTO t SELECT i, (i * 7919) % 10007, hex(i * 2654435761 % 4294967296), i / 7.0 FROM n;
CREATE INDEX ta ON t (a);
SELECT count(*), sum(a), min(b), max(b), round(total(c), 6) FROM t;
UPDATE t SET b = b || a WHERE a % 3 = 0;
DELETE FROM t WHERE a BETWEEN 100 AND 900;
SELECT count(*), sum(length(b)), group_concat(DISTINCT a % 11)
  FROM (SELECT * FROM t ORDER BY a, id);
SELECT x.a % 17 AS k, count(*) FROM t x JOIN t y ON x.a = y.a GROUP BY k ORDER BY k;
PRAGMA integrity_check;
