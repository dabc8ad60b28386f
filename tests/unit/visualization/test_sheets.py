"""Contact sheets."""

from PIL import Image

from mask2former import visualization


def test_a_contact_sheet_holds_every_image() -> None:
    cells = [
        [Image.new("RGB", (100, 50 + 25 * row), (50 * row, 60 * column, 200)) for column in range(3)] for row in (0, 1)
    ]
    sheet = visualization.contact_sheet(
        cells,
        ["one", "two", "three"],
        ["first", "second"],
        title="Title",
        subtitle="what is seen",
        legend=[(f"class {index}", (index * 8, 100, 100)) for index in range(30)],
    )
    colors = {color for _, color in sheet.getcolors(sheet.width * sheet.height) or []}
    assert {cell.getpixel((0, 0)) for row in cells for cell in row} <= colors
    assert {(index * 8, 100, 100) for index in range(30)} <= colors
    assert sheet.getpixel((0, 0)) == (255, 255, 255)
    assert visualization.contact_sheet([[cells[0][0]], [cells[1][0], cells[1][1]]], cell_width=64).width > 128
