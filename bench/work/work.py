# SPDX-License-Identifier: Apache-2.0
"""What `make bench` has Python do: objects, strings, dictionaries, floats, regular expressions, JSON."""
import json
import re


class Body:
    def __init__(self, x, v, mass):
        self.x, self.v, self.mass = x, v, mass

    def pull(self, other, dt):
        d = other.x - self.x
        self.v += dt * other.mass * d / (abs(d) ** 3 + 0.01)


def orbit(steps):
    bodies = [Body(float(i), 0.1 * i, 1.0 + i) for i in range(5)]
    for _ in range(steps):
        for a in bodies:
            for b in bodies:
                if a is not b:
                    a.pull(b, 0.001)
        for a in bodies:
            a.x += 0.001 * a.v
    return sum(b.x for b in bodies)


def words(count):
    x, out = 1, []
    for _ in range(count):
        x = (x * 1103515245 + 12345) % 2**31
        out.append('w%d' % (x >> 16 & 1023))
    return out


def count(text):
    seen = {}
    for w in re.findall(r'w(\d+)', text):
        seen[w] = seen.get(w, 0) + 1
    return sorted(seen.items(), key=lambda kv: (-kv[1], kv[0]))


def queens(n, row=0, columns=0, left=0, right=0):
    if row == n:
        return 1
    found = 0
    for c in range(n):
        bit = 1 << c
        if not (columns | left | right) & bit:
            found += queens(n, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1)
    return found


top = count(' '.join(words(60000)))
print('%.6f' % orbit(2000), top[:3], queens(8))
print(len(json.dumps(json.loads(json.dumps({k: [v, str(v)] for k, v in top})))))
