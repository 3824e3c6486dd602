from dataclasses import dataclass, field
GENERATION_CONFIG = "generation_config.json"
@dataclass
class GenerationSettings:
    raw: dict = field(default_factory=dict)
    @classmethod
    def of(cls, n): return cls()
    @classmethod
    def load(cls, path, n): return cls()
