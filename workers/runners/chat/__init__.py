"""Chats with models: one asyncio loop runs all conversations of a worker process, while the threads of jobs sleep."""
