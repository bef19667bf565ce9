"""A long table in JupyterLab: five rows, and a line that shows the rest, by mouse and by keyboard."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.lab import Notebook

TABLE = "NotedTable(('what', 'n'), [(f'row {i}', str(i)) for i in range(26)], ['a note'])"
CELLS = ["from mixlab.tables import NotedTable", TABLE, TABLE]


def test_it_shows_five_rows_and_unfolds_alone(opened: Notebook):
    first, second = (opened.page.locator(".mixlab-folded").nth(i) for i in (0, 1))
    expect(first.locator("tbody tr:visible")).to_have_count(5)
    first.get_by_text("Show all 26 rows").click()
    expect(first.locator("tbody tr:visible")).to_have_count(26)
    expect(second.locator("tbody tr:visible")).to_have_count(5)
    first.get_by_text("Show only the first 5").click()
    expect(first.locator("tbody tr:visible")).to_have_count(5)


def test_keys_unfold_it_and_leave_the_notebook_alone(opened: Notebook):
    table = opened.page.locator(".mixlab-folded").first
    for key, shown in (("Enter", 26), ("Enter", 5), (" ", 26), (" ", 5)):
        table.locator("summary").press(key)
        expect(table.locator("tbody tr:visible")).to_have_count(shown)
        expect(table.locator("summary")).to_be_focused()


def test_paper_has_every_row(opened: Notebook):
    opened.page.emulate_media(media="print")
    expect(opened.page.locator(".mixlab-folded").first.locator("tbody tr:visible")).to_have_count(26)
    opened.page.emulate_media(media="screen")
