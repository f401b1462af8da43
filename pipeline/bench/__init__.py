"""``matteline bench``: how fast this machine is, its models are, and what the pipeline makes of them.

The JSON of ``--json`` is ``everything.Bench`` field by field::

    schema      1; raised when a name changes its meaning
    made_at     when, UTC
    machine     cpu, cores (that may be used), busy (load average a core, before), memory_gib, gpu, python, versions (by
                package), commit (of a checkout, with a + if files differ)
    photos      how many different ones were measured with
    rates       by precision: gflops (the best candidate), by (which), threads, candidates (GFLOP/s by name)
    models      a list, one entry a preset and batch: preset, engine, precision, weights (own, stand-in), device, threads,
                frame_px, batch, s_per_item, items_per_s, gflop_per_item, gflops, share (of the rate there); the last
                three are null where nothing counts the operations
    stages      one entry a preset: preset, photos, megapixels (of one), ms (by stage, an item on one core)
    jobs        one entry a preset: whole (preset, items, whole_s, counted, seconds, items_per_s, stage_s), copies,
                model_items_per_s, efficiency
    peers       rembg beside ours, if it is there: images, rembg and ours (name, whole_s, images_per_s_whole, images_per_s),
                times_as_fast, times_as_fast_whole, mask_difference (of 255)

Seconds are wall clock; operations count a multiplication and an addition as two.
"""
