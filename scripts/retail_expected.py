"""What the retail data says, computed without any library and without Headend.

`expected(lines)` gives, for each view of `tests/data/retail.sql`, a dictionary from the row's key to (revenue in pence, lines).
"""

import collections
import csv
import datetime
import decimal
import gzip
import os
import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
VIEWS = ("revenue_customer_day", "revenue_customer_30d", "revenue_day")
DAY = datetime.timedelta(days=1)


def data_file():
    data = pathlib.Path(os.environ.get("HEADEND_DATA", REPOSITORY / "../shared/data"))
    file = (data / "retail/online_retail.csv.gz").resolve()
    if not file.exists():
        raise SystemExit("the retail data is not here: set HEADEND_DATA to the folder that holds retail/online_retail.csv.gz")
    return file


def amount_minor(quantity, price):
    """Decimals all the way, rounded once, half away from zero."""
    exact = decimal.Decimal(quantity) * decimal.Decimal(price) * 100
    return int(exact.quantize(decimal.Decimal(1), decimal.ROUND_HALF_UP))


def expected(lines_max=None):
    days = collections.defaultdict(lambda: [0, 0])
    lines = 0
    with gzip.open(data_file(), "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if lines == lines_max:
                break
            lines += 1
            customer = row["CustomerID"].replace(".0", "") or "guest"
            day = datetime.date.fromisoformat(row["InvoiceDate"][:10])
            add(days[customer, day], amount_minor(row["Quantity"], row["UnitPrice"]), 1)
    sliding, total = collections.defaultdict(lambda: [0, 0]), collections.defaultdict(lambda: [0, 0])
    for (customer, day), (revenue, count) in days.items():
        add(total[day], revenue, count)
        for back in range(30):
            add(sliding[customer, day - back * DAY], revenue, count)
    by_customer = lambda rows: {(customer, shown(day)): tuple(v) for (customer, day), v in rows.items()}
    views = (by_customer(days), by_customer(sliding), {shown(day): tuple(v) for day, v in total.items()})
    return lines, dict(zip(VIEWS, views))


def add(cell, revenue, count):
    cell[0] += revenue
    cell[1] += count


def shown(day):
    return f"{day.isoformat()}T00:00:00Z"


def compare(view, expected_rows, rows):
    """(rows got, rows that differ, the first of them); `rows` are dictionaries with the window's start as text."""
    got, twice = {}, []
    for row in rows:
        key = row["window_start"] if view == "revenue_day" else (row["subscriber_id"], row["window_start"])
        if key in got:
            twice.append(f"{key} stands twice")
        got[key] = (row["revenue_minor"], row["lines"])
    wrong = [f"{k}: expected {expected_rows.get(k)}, got {got.get(k)}" for k in expected_rows.keys() | got.keys() if expected_rows.get(k) != got.get(k)]
    return len(got) + len(twice), len(wrong) + len(twice), (twice + wrong)[:1]
