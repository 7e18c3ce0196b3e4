"""What a run leaves on disk, and how it is read back. Without torch.

    results/<run_id>/spec.json       resolved specification, provenance, method card
    results/<run_id>/train.json      summary, cost, status, warnings, error
    results/<run_id>/history.jsonl   one line an epoch
    results/<run_id>/evaluations/<eval_id>/eval.json          what is asked: attack, eps, images
    results/<run_id>/evaluations/<eval_id>/<chunk>.json .npz  the outcome of every image
    results/<run_id>/best.safetensors last.safetensors        weights, ignored by git

One fact, one file; written beside and renamed; never changed. So two processes may share a
folder, and a kill leaves nothing half-written.
"""
