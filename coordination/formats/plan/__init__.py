"""The plan file: conversion between YAML or JSON and a Plan, and its JSON Schema. Pure: accesses no files."""

from coordination.formats.plan.document import MAX_BYTES
from coordination.formats.plan.reader import read_plan, read_tasks, resolve_paths
from coordination.formats.plan.table import plan_schema
from coordination.formats.plan.writer import write_plan

__all__ = ["MAX_BYTES", "plan_schema", "read_plan", "read_tasks", "resolve_paths", "write_plan"]
