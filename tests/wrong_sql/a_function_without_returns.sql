-- expect: 3:43: expected `RETURNS` and a type, found `AS`
-- hint: write `CREATE FUNCTION f(a DOUBLE) RETURNS DOUBLE AS '…'`
CREATE FUNCTION ratio(a DOUBLE, b DOUBLE) AS 'a / b';
