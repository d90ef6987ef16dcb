# SPDX-License-Identifier: Apache-2.0
"""Work for an interpreter: numbers of all kinds, dictionaries, text, compression, exceptions."""
import hashlib
import json
import math
import random
import zlib

r = random.Random(42)
numbers = [r.getrandbits(64) for _ in range(20000)]
table = {n: str(n) for n in numbers}
text = json.dumps(sorted(table.items())).encode()
packed = zlib.compress(text, 6)
assert zlib.decompress(packed) == text
print(hashlib.sha256(text).hexdigest(), hashlib.sha256(packed).hexdigest())
print(sum(numbers) ** 3 % (2 ** 127 - 1), math.factorial(500) % 1000003)
print(repr(sum(math.sin(n) * math.sqrt(n) for n in range(20000))))
caught = 0
for n in range(2000):
    try:
        caught += 1 // (n % 3)
    except ZeroDivisionError:
        caught += 2
print(caught, hash(3.5), sorted({w[:3] for w in table.values()})[:5])
