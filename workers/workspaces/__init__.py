"""Where a task works: in git worktrees of its own, whose changes are merged to the branch of the run.

``git`` calls git. ``repository`` knows where a folder's repository keeps itself, and its branches. ``worktree`` makes
one for an attempt and commits what the attempt changed; ``lodging`` keeps its folder, and takes away what nobody needs.
``preparation`` makes it ready to work, with what ``warm`` keeps of setup commands. ``turns`` lets one after the other
merge; ``landing`` merges, once; ``merging`` says what is in conflict and what of it nobody has resolved; ``conflict``
describes that as a task for an agent; ``news`` tells agents what others have merged.

Nothing here touches the checkout, the index, the current branch, the stash, the hooks or the configuration of whoever
owns the repository. What it leaves there: branches below ``coord/``, worktree records while attempts run, and a folder
``coordination`` beside them with the queue and with what was merged but not yet stored.
"""
