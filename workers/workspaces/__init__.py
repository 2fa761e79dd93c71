"""Git worktrees of tasks, whose changes are merged to the branch of the run.

``git`` calls git. ``repository`` locates a repository and moves its branches. ``worktree`` creates a worktree for an
attempt and commits its changes; ``worktree_folder`` manages its directory and deletes unused ones. ``preparation``
makes it ready to work, with the results of setup commands from ``setup_cache``. ``merge_lock`` serializes merges;
``merge_queue`` merges a change once; ``merge_conflicts`` lists conflicts and which are unresolved; ``conflict_task``
describes them as a task for an agent; ``merged_changes`` informs agents of what others have merged.

Nothing here changes the user's checkout, index, current branch, stash, hooks or configuration. It adds branches below
``coord/`` and worktree records to the repository.
"""
