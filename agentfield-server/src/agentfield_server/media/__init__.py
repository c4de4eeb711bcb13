"""Audio at the door: conversion between the caller's format and the provider's, and recorded turns made into samples."""
