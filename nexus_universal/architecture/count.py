from dataclasses import dataclass
@dataclass
class Count: ...
def count(n, *, context, dtype): raise NotImplementedError
