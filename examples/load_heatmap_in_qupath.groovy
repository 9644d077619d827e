/*
 * Show what wsivit wrote for the slide that is open in QuPath (0.4 or later):
 * tiles with their probabilities, regions over the threshold, and the colours as an overlay.
 *
 *   wsivit heatmap slide.zarr -o heatmaps
 *
 * writes the first two; the overlay is the form "overlay". Set FOLDER and PREFIX, and run this in the script editor.
 * Files that are not there are left out. To correct regions: edit them, then File > Export objects as GeoJSON, and give
 * that file to `wsivit tile --annotations`.
 */

import com.google.gson.Gson
import java.util.zip.GZIPInputStream
import javafx.application.Platform
import javax.imageio.ImageIO
import qupath.lib.gui.viewer.overlays.BufferedImageOverlay
import qupath.lib.io.PathIO
import qupath.lib.regions.ImageRegion

import static qupath.lib.gui.scripting.QPEx.*

def FOLDER = "/path/to/heatmaps"
def PREFIX = "SLIDE-RUN"          // <slide_id>-<run>, the beginning of the file names
def ADD_TILES = true
def ADD_REGIONS = true
def SHOW_OVERLAY = true

def open = { File file -> file.name.endsWith(".gz") ? new GZIPInputStream(file.newInputStream()) : file.newInputStream() }
def find = { String ending ->
    new File(FOLDER).listFiles().findAll { it.name.startsWith(PREFIX) && it.name ==~ /.*${ending}(\.gz)?/ }.sort()
}
def tiles = find("-tiles\\.geojson")
def regions = find("-regions\\.geojson")
def overlays = find("-overlay\\.ome\\.tif")
if (tiles.isEmpty() && regions.isEmpty()) {
    println "No GeoJSON that begins with ${PREFIX} in ${FOLDER}"
    return
}

// The first line of each file says which slide it is of, and from which corner its coordinates count.
def first = open((tiles + regions)[0]).withReader("UTF-8") { it.readLine() }
def about = new Gson().fromJson(first + "]}", Map).wsivit
def (width, height) = about.slide_size.collect { it as int }
def (left, top) = about.view_origin.collect { it as int }
def server = getCurrentServer()
if (left == 0 && top == 0 && (server.getWidth() != width || server.getHeight() != height)) {
    println "These files are of ${about.slide_id}, ${width} x ${height} pixels, and the open image is not"
    return
}

def load = { File file ->
    def objects = open(file).withStream { PathIO.readObjectsFromGeoJSON(it) }
    addObjects(objects)
    println "${objects.size()} objects from ${file.name}"
}
if (ADD_TILES) tiles.each(load)
if (ADD_REGIONS) regions.each(load)

if (SHOW_OVERLAY && !overlays.isEmpty()) {
    def image = ImageIO.read(overlays[0])
    def region = ImageRegion.createInstance(-left, -top, width, height, 0, 0)
    Platform.runLater {
        def viewer = getCurrentViewer()
        viewer.getCustomOverlayLayers().setAll(new BufferedImageOverlay(viewer.getOverlayOptions(), region, image))
    }
    println "Overlay from ${overlays[0].name}"
}
