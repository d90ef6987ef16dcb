# SPDX-License-Identifier: Apache-2.0
"""The plot of docs/performance.md: for each work a bar per engine, its time over the bare processor's on
a logarithmic scale, with the spread over the rounds as a line. Plain SVG."""
import math
from xml.sax.saxutils import escape

COLOURS = {'tcg': '#b8b0a4', 'bt': '#2f6db3', 'interp': '#d98e32'}
MORE_COLOURS = ['#4a9a6a', '#8a5fb0', '#b3475a']
LEFT, PLOT, RIGHT, TOP, BAR, GAP, HEAD = 270, 560, 70, 62, 9, 7, 24
GRID = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
GROUPS = [('user', 'user-mode work'), ('kernel', 'kernel paths')]


class Canvas:
    def __init__(self, low, high):
        self.low, self.high = math.log(low), math.log(high)
        self.parts = []

    def x(self, ratio):
        inside = min(max(math.log(ratio), self.low), self.high)
        return LEFT + PLOT * (inside - self.low) / (self.high - self.low)

    def add(self, text):
        self.parts.append(text)

    def rect(self, x, y, width, height, fill):
        self.add(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{fill}"/>')

    def line(self, x1, y1, x2, y2, stroke, width=1):
        self.add(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
                 f'stroke-width="{width}"/>')

    def text(self, x, y, text, anchor='start', size=12, more=''):
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {more}>'
                 f'{escape(text)}</text>')

    def svg(self, height):
        width = LEFT + PLOT + RIGHT
        return '\n'.join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                          f'width="{width}" height="{height}" font-family="sans-serif" fill="#222">',
                          f'<rect width="{width}" height="{height}" fill="#fff"/>']
                         + self.parts + ['</svg>', ''])


def colours(names):
    more = iter(MORE_COLOURS)
    return {n: COLOURS.get(n) or next(more, '#666') for n in names}


def legend(canvas, names, colour):
    x = LEFT
    for n in names:
        canvas.rect(x, 34, 12, 12, colour[n])
        canvas.text(x + 17, 44, n)
        x += 40 + 8 * len(n)


def grid(canvas, top, bottom):
    for g in GRID:
        if canvas.low <= math.log(g) <= canvas.high:
            canvas.line(canvas.x(g), top, canvas.x(g), bottom, '#222' if g == 1 else '#ddd')
            canvas.text(canvas.x(g), bottom + 15, f'{g:g}x', 'middle', 11)


def bars(canvas, res, item, names, colour, y):
    canvas.text(LEFT - 10, y + len(names) * BAR / 2 + 4, item.text, 'end')
    for n in names:
        r = res.ratio((n, 'native'), item.name)
        if r:
            one, at = canvas.x(1), canvas.x(r[0])
            canvas.rect(min(one, at), y, max(abs(at - one), 0.5), BAR - 1, colour[n])
            canvas.line(canvas.x(r[1]), y + BAR / 2 - 0.5, canvas.x(r[2]), y + BAR / 2 - 0.5, '#222')
            canvas.text(max(one, canvas.x(r[2])) + 5, y + BAR - 1, f'{r[0]:.3g}', size=9)
        y += BAR


def svg(res):
    names = [n for n in res.names if n != 'native']
    colour = colours(names)
    groups = [(text, [i for i in res.items(g) if any(res.ratio((n, 'native'), i.name) for n in names)])
              for g, text in GROUPS]
    ratios = [r for _, found in groups for i in found for n in names
              for r in [res.ratio((n, 'native'), i.name)] if r]
    canvas = Canvas(min([0.7] + [r[1] for r in ratios]), max([10] + [r[2] for r in ratios]) * 1.1)
    step = len(names) * BAR + GAP
    bottom = TOP + sum(HEAD + step * len(found) for _, found in groups)
    canvas.text(LEFT, 22, 'Time over the bare processor\'s (shorter is better)', size=15)
    legend(canvas, names, colour)
    grid(canvas, TOP, bottom)
    y = TOP
    for text, found in groups:
        canvas.text(LEFT - 10, y + 16, text, 'end', 12, 'font-weight="bold"')
        y += HEAD
        for i in found:
            bars(canvas, res, i, names, colour, y)
            y += step
    return canvas.svg(bottom + 28)
