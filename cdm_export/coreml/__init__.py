"""Core ML packages: conversion, compression, quantization, and an interpreter for any machine."""
