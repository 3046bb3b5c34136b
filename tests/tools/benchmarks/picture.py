"""The picture of the README: an SVG file with a bar for each way to send."""

from statistics import median

from .ways import CONNECTIONS, FRESH, KEPT, OURS_BATCH, OURS_FRESH, PARALLEL, RAW

# From above. Django's open connection is left out: it is as fast as smtplib's.
BARS = {
    FRESH: "Django's backend",
    RAW: "smtplib, held open",
    OURS_FRESH: "email_hosts",
    KEPT: "email_hosts, conn_max_age",
    OURS_BATCH: "email_hosts, a list",
    PARALLEL: f"email_hosts, parallel={CONNECTIONS}",
}
# Apart for the colour-blind, and in print, too. Okabe and Ito chose the blue.
GREY, BLUE = "#9A9A9A", "#0072B2"
STYLE = "text { font: 14px sans-serif; fill: #1F1F1F } .title { font-weight: bold }"

# In pixels.
LEFT, TOP, ROW, BAR = 230, 80, 24, 19
LONGEST, PART = 220, 280  # the longest bar, and a part of the picture with its numbers
WIDTH, HEIGHT = LEFT + 2 * PART, TOP + len(BARS) * ROW + 30


def draw(table, milliseconds, file):
    """Draw mails per second: a part for each number of recipients, a bar for each way."""
    parts = {
        recipients: {way: median(table[milliseconds, recipients][way]) for way in BARS}
        for recipients in (1, 20)
    }
    first, second = (round(part[KEPT] / part[FRESH]) for part in parts.values())
    title = (
        f"{milliseconds} ms away, a kept connection sends {first} times as many",
        f"mails as Django's backend, and {second} times as many to 20 recipients",
    )
    longest = max(max(part.values()) for part in parts.values())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}">',
        f"<style>{STYLE}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for line, words in enumerate(title, 1):
        lines.append(text(WIDTH / 2, 20 * line, words, "title"))
    for row, name in enumerate(BARS.values()):
        lines.append(text(LEFT - 8, TOP + row * ROW + 14, name, anchor="end"))
    for x, (recipients, part) in zip((LEFT, LEFT + PART), parts.items(), strict=True):
        plural = "s" if recipients > 1 else ""
        lines.append(text(x + PART / 2, TOP - 12, f"to {recipients} recipient{plural}"))
        lines.append(text(x + PART / 2, HEIGHT - 10, "mails per second"))
        for row, (way, speed) in enumerate(part.items()):
            y, width = TOP + row * ROW, speed / longest * LONGEST
            color = GREY if way in {FRESH, RAW} else BLUE
            bar = f'x="{x}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{color}"'
            lines.append(f"<rect {bar}/>")
            shown = f"{speed:.{0 if speed > 10 else 1}f}"
            lines.append(text(x + width + 5, y + 14, shown, anchor="start"))
    file.write_text("\n".join([*lines, "</svg>\n"]))


def text(x, y, words, name="", anchor="middle"):
    classes = f' class="{name}"' if name else ""
    return f'<text{classes} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{words}</text>'
