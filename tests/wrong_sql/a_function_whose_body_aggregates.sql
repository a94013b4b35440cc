-- expect: 3:51: `sum` cannot stand in the body of a function, which is asked for one row
-- hint: write the aggregate in the view, around the function
CREATE FUNCTION total(a DOUBLE) RETURNS DOUBLE AS 'sum(a)';
