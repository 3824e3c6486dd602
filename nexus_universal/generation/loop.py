def generate(model, input_ids, **settings): raise NotImplementedError
