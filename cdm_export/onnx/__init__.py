"""ONNX graphs: conversion, names, types counted after the write."""
