import sys
from tests.layers.test_every_field_counts import *
for mt in ("inkling_text","inkling2_text"):
    n = tiny(mt)
    base = built(n)
    with torch.no_grad(): before = run(base)
    known = {name: tuple(slot.shape) for name, slot in slots(base).items()}
    for path, mutant in mutants(n):
        if path.split(".")[0] in ("origin","text") or rightly_equal(mt, path, EQUAL|HALF): continue
        try: mutant.validate(); 
        except InvalidArchitecture: continue
        try: 
            model=built(mutant)
            with torch.no_grad(): logits = run(model)
        except (UnsupportedPart, InvalidArchitecture): continue
        new = {name for name, slot in slots(model).items() if known.get(name) != tuple(slot.shape)}
        if not new and logits.shape == before.shape and float((logits.detach() - before).abs().max() / before.abs().max()) < 2e-5: print(mt, path)
